#!/usr/bin/env bash
# Fill deploy/secrets with random secrets; what is there is kept. The files are readable by containers, whose users are
# nobody here, and lie in a folder that only its owner can enter.
set -euo pipefail
mkdir -p "$(dirname "$0")/secrets"
cd "$(dirname "$0")/secrets"
chmod 700 .

random() { head -c 24 /dev/urandom | base64 | tr '+/' '-_'; }

for name in id_secret ray_token grafana_password postgres_password; do
    [ -s "$name" ] || random >"$name"
done
if ! [ -s s3_identities ]; then
    key=$(random)
    printf '[default]\naws_access_key_id = glucast\naws_secret_access_key = %s\n' "$key" >s3_credentials
    printf '{"identities": [{"name": "glucast", "credentials": [{"accessKey": "glucast", "secretKey": "%s"}], %s}]}\n' \
        "$key" '"actions": ["Admin", "Read", "Write", "List", "Tagging"]' >s3_identities
fi
chmod 444 ./*
