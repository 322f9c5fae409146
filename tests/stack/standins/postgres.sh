#!/bin/bash
# What the official image does at its start: the folder is made once, and postgres, not root, runs.
set -euo pipefail
folder=/var/lib/postgresql/data
as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }

chown postgres:postgres "$folder" /var/run/postgresql
if ! [ -s "$folder/PG_VERSION" ]; then
    cat "$POSTGRES_PASSWORD_FILE" >/tmp/password
    chmod 644 /tmp/password
    as_postgres initdb -D "$folder" -U "$POSTGRES_USER" --auth-local=trust --auth-host=scram-sha-256 --pwfile=/tmp/password >/dev/null
    rm /tmp/password
    echo 'host all all all scram-sha-256' >>"$folder/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_DB" | as_postgres postgres --single -D "$folder" postgres >/dev/null
fi
exec setpriv --reuid=postgres --regid=postgres --init-groups postgres -D "$folder" -c 'listen_addresses=*'
