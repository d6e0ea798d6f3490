#!/bin/sh
# Replaces the containers of a service by ones of the present image and settings, without a gap: as many new ones are
# started beside the old, and once they are healthy the old are stopped, in order, one after the other. If they do not
# become healthy within ROLL_WITHIN seconds (180), it is they who go: what they said last is shown, and the old serve on.
#
#     sh deploy/roll.sh worker
#     sh deploy/roll.sh api        # behind the proxy: two instances cannot have the same port
set -eu

[ $# -eq 1 ] || { echo "usage: $0 SERVICE" >&2; exit 2; }
service=$1
label=com.docker.compose

running=$(docker compose ps --quiet "$service")
[ -n "$running" ] || { echo "No container of $service runs." >&2; exit 1; }
project=$(docker inspect --format "{{index .Config.Labels \"$label.project\"}}" "$(echo "$running" | head -n 1)")

# Those that do not run, too: they count for --scale. Not those of `docker compose run`.
all_of_them() {
    docker ps --all --quiet --no-trunc --filter "label=$label.project=$project" \
        --filter "label=$label.service=$service" --filter "label=$label.oneoff=False"
}

# Each within its own stop_grace_period.
remove() {
    for container in $1; do
        docker stop "$container"
        docker rm "$container"
    done
}

give_up() {
    trap '' INT TERM
    new=$(all_of_them | grep -vxF "$old") || true
    for container in $new; do
        echo "--- $container" >&2
        docker logs --tail 20 "$container" >&2 || true
    done
    remove "$new" || true
    echo "New containers of $service $1: they are removed, and the old ones serve on." >&2
    exit 1
}

# Asks nothing of the old: they may be unhealthy, and the reason to come here.
wait_for() {
    left=${ROLL_WITHIN:-180}
    while :; do
        health=$(echo "$1" | xargs docker inspect --format '{{with .State.Health}}{{.Status}}{{end}}') ||
            give_up "are gone"
        ! echo "$health" | grep -qx unhealthy || give_up "are unhealthy"
        echo "$health" | grep -qvx healthy || return 0
        [ "$left" -gt 0 ] || give_up "are not healthy after ${ROLL_WITHIN:-180} seconds"
        left=$((left - 1))
        sleep 1
    done
}

old=$(all_of_them)
scale=$(printf '%s\n' "$old" "$running" | wc -l)
trap 'give_up "were interrupted"' INT TERM
docker compose up --detach --no-deps --no-recreate --no-build --scale "$service=$scale" "$service" ||
    give_up "cannot be started"
new=$(all_of_them | grep -vxF "$old") || give_up "have not been made"
wait_for "$new"
trap - INT TERM
remove "$old"
