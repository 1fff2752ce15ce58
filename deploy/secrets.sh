#!/bin/sh
# Makes the secrets of compose.yaml, in secrets/ beside it (or in the folder that is named), once: what is there stays.
# Containers read the files as users of their own, so these must be readable; the folder lets in nobody else on this machine.
set -eu

folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
chmod 700 "$folder"
umask 022

password() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

[ -s "$folder/mariadb_password" ] || password >"$folder/mariadb_password"
[ -s "$folder/grafana_password" ] || password >"$folder/grafana_password"
printf 'mysql+pymysql://dragoman:%s@mariadb/dragoman' "$(cat "$folder/mariadb_password")" >"$folder/dragoman_database_url"
