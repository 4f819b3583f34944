"""Serving a mounted volume to other machines with nfs-ganesha and Samba: what is exported to whom, their configuration, their lives."""
