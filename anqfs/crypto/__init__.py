"""Keys and sealing. The only room that imports cryptography."""
