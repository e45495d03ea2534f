#!/bin/sh
# Writes the secrets of compose.yaml that are not there yet, each readable by the user of its container alone. Run by root it
# gives them to these users; otherwise it says how.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p secrets
cd secrets

owned() { # owned FILE USER
    chmod 0400 "$1"
    if [ "$(id -u)" = 0 ]; then
        chown "$2" "$1"
    else
        echo "sudo chown $2 $PWD/$1"
    fi
}

new() { # new FILE USER: a token, if there is none
    [ -e "$1" ] || { openssl rand -hex 32 >"$1" && owned "$1" "$2"; }
}

# One token each: of callers, and of Prometheus. The gateway accepts both; Prometheus has only its own.
if [ ! -e gateway-tokens ]; then
    rm -f metrics-token
    metrics=$(openssl rand -hex 32)
    printf '%s\n' "$metrics" >metrics-token
    printf '%s\n# Prometheus\n%s\n' "$(openssl rand -hex 32)" "$metrics" >gateway-tokens
    owned metrics-token 65534:65534
    owned gateway-tokens 10001:10001
fi
new write-tokens 10001:10001
new grafana-password 472:0
