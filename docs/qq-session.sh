#!/usr/bin/env bash
# An administrator's session with ANQ's own client, `qq` (pip install qumulo-api), on an anqfs volume. A test runs this very file.
#
#     anqfs api user add admin --password-file admin.password --mountpoint /archive
#     anqfs serve /archive --listen 127.0.0.1:8000 --tls-self-signed &
#     docs/qq-session.sh admin.password --host 127.0.0.1 --port 8000
#
# What follows the password file are qq's own options. It works in a directory /qq-session of the volume, which it removes at the end.
set -euo pipefail

password=$(head -n 1 -- "$1")
options=("${@:2}")
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

qq() {
    printf '\n$ qq %s\n' "$*" >&2
    command qq "${options[@]}" --credentials-store "$work/credentials" "$@"
}

# must_fail NAME ...: qq has to be refused with the error NAME.
must_fail() {
    local name=$1 said
    shift
    if said=$(qq "$@" 2>&1); then
        printf 'this should have been refused: qq %s\n' "$*" >&2
        exit 1
    fi
    grep -q -- "$name" <<<"$said" || {
        printf 'this should have been refused with %s:\n%s\n' "$name" "$said" >&2
        exit 1
    }
}

# field NAME: prints one field of the JSON object on stdin.
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

# --- who, and what answers
must_fail auth_invalid_credentials_error login -u admin -p "not $password"
qq login -u admin -p "$password"
qq version
qq who_am_i
qq cluster_conf

# --- access tokens: shown once, and good until they are revoked
token=$(qq auth_create_access_token --self -f "$work/token" | field id)
command qq "${options[@]}" --credentials-store "$work/token" version
qq auth_list_access_tokens
qq auth_modify_access_token "$token" --disable
if command qq "${options[@]}" --credentials-store "$work/token" who_am_i 2>/dev/null | grep -q '"name": "admin"'; then exit 1; fi
qq auth_delete_access_token "$token"

# --- files
head -c 3000000 /dev/urandom >"$work/image"
qq fs_create_dir --path / --name qq-session
qq fs_create_file --path /qq-session --name image
must_fail fs_entry_exists_error fs_create_file --path /qq-session --name image
qq fs_write --path /qq-session/image --file "$work/image"
qq fs_read --path /qq-session/image --file "$work/again"
cmp "$work/image" "$work/again"
command qq "${options[@]}" --credentials-store "$work/credentials" fs_read --path /qq-session/image --offset 1000 --length 24 --stdout |
    cmp - <(tail -c +1001 "$work/image" | head -c 24)
qq fs_file_get_attr --path /qq-session/image
qq fs_file_set_attr --path /qq-session/image --mode 0640
qq fs_get_acl --path /qq-session/image
qq fs_copy /qq-session/image /qq-session/copy --quiet
qq fs_rename --source /qq-session/copy --path /qq-session --name renamed
qq fs_read_dir --path /qq-session --page-size 1
qq fs_read_dir_aggregates --path /qq-session
qq fs_read_dir_aggregates --path / --recursive
qq fs_get_stats

# --- snapshots
directory=$(qq fs_file_get_attr --path /qq-session | field id)
first=$(qq snapshot_create_snapshot --path /qq-session -n before -e 2100-01-01T00:00:00Z | field id)
head -c 100000 /dev/urandom >"$work/part"
qq fs_write --path /qq-session/image --offset 1000000 --file "$work/part"
qq fs_delete --path /qq-session/renamed
second=$(qq snapshot_create_snapshot --source-file-id "$directory" -n after | field id)
qq fs_read --path /qq-session/image --snapshot "$first" --file "$work/then"
cmp "$work/image" "$work/then"
qq fs_copy /qq-session/renamed /qq-session/restored --source-snapshot "$first" --quiet
qq snapshot_diff --newer-snapshot "$second" --older-snapshot "$first"
qq snapshot_file_diff --newer-snapshot "$second" --older-snapshot "$first" --path /qq-session/image
must_fail fs_file_not_covered_by_snapshot_error fs_file_get_attr --path / --snapshot "$first"
qq snapshot_list_statuses --exclude-in-delete
qq snapshot_get_status -i "$first"
qq snapshot_modify_snapshot -i "$first" -e ''
qq snapshot_get_total_used_capacity

# --- policies, which take snapshots by themselves
office=$(qq snapshot_create_policy hourly_or_less -n office --path /qq-session -p 15minutes -s 8:00 -e 18:00 -d MON,TUE,WED,THU,FRI -t 2days | field id)
policy=$(qq snapshot_create_policy daily -n nightly --path /qq-session -a 2:30 -z Europe/Berlin -t 3months | field id)
yearbook=$(qq snapshot_create_policy monthly -n yearbook --path /qq-session -a 23:00 -l --snapshot-name-template '{ID}_{Year}-{Month}' --disabled | field id)
must_fail http_bad_request_error snapshot_create_policy daily -n other -a 2:30 -t 100days
qq snapshot_modify_policy change_to_daily -i "$policy" -a 3:30 -d SUN
qq snapshot_modify_policy modify_non_schedule_fields -i "$yearbook" -t never --enabled
qq snapshot_list_policy_statuses
qq snapshot_list_policies
for id in "$office" "$policy" "$yearbook"; do
    qq snapshot_delete_policy -i "$id"
done

# --- locks: nobody deletes a locked snapshot before it expires, unless the owner of the key signs
openssl ecparam -name prime256v1 -genkey -noout -out "$work/vault.pem"
openssl ecparam -name prime256v1 -genkey -noout -out "$work/new.pem"
qq fs_security_add_key --name qq-vault --private-key-file "$work/vault.pem" --comment 'kept elsewhere'
locked=$(qq snapshot_create_snapshot --path /qq-session -n locked -e 2100-01-01T00:00:00Z | field id)
qq snapshot_lock_snapshot -i "$locked" -k qq-vault --force
must_fail snapshot_locked_error snapshot_delete_snapshot -i "$locked"
must_fail snapshot_locked_error snapshot_modify_snapshot -i "$locked" -e 2099-01-01T00:00:00Z --force
must_fail fs_security_key_in_use_error fs_security_delete_key -k qq-vault
qq snapshot_modify_snapshot -i "$locked" -e 2101-01-01T00:00:00Z --force
qq fs_security_get_key_usage -k qq-vault
qq fs_security_replace_key -k qq-vault --old-private-key-file "$work/vault.pem" --replacement-private-key-file "$work/new.pem"
qq snapshot_get_unlock_challenge -i "$locked"
must_fail fs_security_bad_signature_error snapshot_unlock_snapshot -i "$locked" -k "$work/vault.pem"
qq snapshot_unlock_snapshot -i "$locked" -k "$work/new.pem"
qq snapshot_delete_snapshot -i "$locked"
qq fs_security_delete_key -k qq-vault

# --- quotas
qq quota_create_quota --path /qq-session --limit 4MiB
must_fail fs_quota_no_space_error fs_write --path /qq-session/restored --offset 3900000 --file "$work/image"
qq quota_update_quota --path /qq-session --limit 1GB
qq quota_get_quota --path /qq-session
qq quota_list_quotas
qq quota_delete_quota --path /qq-session

# --- encryption at rest
qq encryption_get_status
qq rotate_encryption_keys
qq encryption_get_key_store

# --- the end: snapshots go in the background, and so does the tree
qq snapshot_delete_snapshot -i "$first"
qq snapshot_delete_snapshot -i "$second"
must_fail fs_directory_not_empty_error fs_delete --path /qq-session
qq tree_delete_create /qq-session --force
while qq tree_delete_get "$directory" 2>/dev/null; do sleep 0.2; done
must_fail fs_no_such_entry_error fs_file_get_attr --path /qq-session
qq logout
printf '\nall of it went as it should\n'
