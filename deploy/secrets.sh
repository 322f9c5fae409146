#!/usr/bin/env bash
# Fill deploy/secrets with random secrets; what is there is kept. The files are readable by containers, whose users are
# nobody here, and lie in a folder that only its owner can enter.
#
# guard and client hold what the service and its client in the stack need with GUARDED=1: tokens, and certificates of a
# CA that is made here. That CA is FOR TRYING: its key lies beside it, unlocked. For others than yourself put
# certificates of your own in their place.
set -euo pipefail
umask 077
mkdir -p "$(dirname "$0")/secrets"
cd "$(dirname "$0")/secrets"
mkdir -p ca guard client

random() { head -c 24 /dev/urandom | base64 | tr '+/' '-_'; }
openssl_quietly() { openssl "$@" 2>next.said || { cat next.said >&2; return 1; }; }

# FOLDER NAME USAGE [ALTERNATIVE NAMES]: a certificate of the CA for trying, and its key, a year long
certificate() {
    printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=%s\n%s\n' \
        "$3" "${4:+subjectAltName=$4}" >next.extensions
    openssl_quietly req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" \
        -keyout next.key -out next.request
    openssl_quietly x509 -req -in next.request -CA ca/ca.pem -CAkey ca/ca.key -set_serial "0x$(openssl rand -hex 16)" \
        -days 365 -extfile next.extensions -out next.pem
    mv -f next.key "$1/key.pem"
    mv -f next.pem "$1/certificate.pem"
}

# What is missing of the CA for trying and of its certificates.
certificates() {
    if ! [ -s ca/ca.pem ]; then
        printf '[req]\ndistinguished_name=name\nx509_extensions=ca\n[name]\n[ca]\n%s\n%s\n%s\n' \
            'basicConstraints=critical,CA:TRUE' 'keyUsage=critical,keyCertSign,cRLSign' 'subjectKeyIdentifier=hash' \
            >next.extensions
        openssl_quietly req -new -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
            -subj '/CN=glucast for trying' -config next.extensions -keyout ca/ca.key -out ca/ca.pem
    fi
    [ -s client/ca.pem ] || cp ca/ca.pem client/ca.pem
    [ -s guard/client_ca.pem ] || cp ca/ca.pem guard/client_ca.pem
    # the name first by which it is asked in the stack; health checks show this certificate as a caller's
    [ -s guard/certificate.pem ] ||
        certificate guard inference serverAuth,clientAuth 'DNS:inference,DNS:localhost,IP:127.0.0.1'
    [ -s client/certificate.pem ] || certificate client client clientAuth
}

for name in id_secret ray_token grafana_password postgres_password; do
    [ -s "$name" ] || random >"$name"
done
if ! [ -s s3_identities ]; then
    key=$(random)
    printf '[default]\naws_access_key_id = glucast\naws_secret_access_key = %s\n' "$key" >s3_credentials
    printf '{"identities": [{"name": "glucast", "credentials": [{"accessKey": "glucast", "secretKey": "%s"}], %s}]}\n' \
        "$key" '"actions": ["Admin", "Read", "Write", "List", "Tagging"]' >s3_identities
fi

if ! [ -s guard/tokens ]; then
    rm -f client/token
    random >client/token
    printf '# of the client in the stack: client/token\nforecast %s\nadmin    %s\n' "$(cat client/token)" "$(random)" \
        >guard/tokens
fi
if command -v openssl >/dev/null; then
    certificates
else
    echo 'openssl is not installed: no certificates were made, which GUARDED=1 needs' >&2
fi

rm -f next.*
find . -type f -exec chmod 444 {} +
[ ! -e ca/ca.key ] || chmod 400 ca/ca.key
chmod 755 guard client # which containers enter; this folder keeps others out
chmod 700 . ca
