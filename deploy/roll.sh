#!/bin/sh
# Replaces the containers of a service by ones of the present image and settings, without a gap: as many new ones are
# started beside the old, and once they are healthy the old are stopped, in order, one after the other. If they do not
# become healthy within ROLL_WITHIN seconds (180), it is they who go: what they said last is shown, and the old serve on.
# It removes only what was there before it, or what it has started, and nothing unless others of the service run. One at
# a time: who comes second would take the first one's new containers for old.
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

# A folder: to make one either succeeds or does not, on every system. Shells do not clear up when a signal ends them.
lock=${TMPDIR:-/tmp}/roll-$project-$service.lock
trap 'exit 1' INT TERM HUP
mkdir "$lock" || {
    echo "Another roll of $service may be under way (process $(cat "$lock/pid" || echo unknown))." >&2
    echo "If there is none, it was killed. Remove what it has left, and try again: rm -r '$lock'" >&2
    exit 1
}
trap 'rm -rf "$lock"' EXIT
echo $$ > "$lock/pid"

# Of the service, not those of `docker compose run`. With --all, those that do not run, too: they count for --scale.
containers() {
    docker ps "$@" --quiet --no-trunc --filter "label=$label.project=$project" \
        --filter "label=$label.service=$service" --filter "label=$label.oneoff=False"
}

# Each within its own stop_grace_period. It says nothing: a terminal that is gone must not end it half-way.
remove() {
    for container in $1; do
        docker stop "$container" > /dev/null
        docker rm "$container" > /dev/null
    done
}

# Whoever reads what it says may be gone: that is one of the reasons to come here.
give_up() {
    trap '' INT TERM HUP PIPE
    set +e
    [ -n "$new" ] || new=$(containers --all | grep -vxF "$old")
    for container in $new; do
        echo "--- $container" >&2
        docker logs --tail 20 "$container" >&2
    done
    if containers | grep -qxF "$old"; then
        remove "$new"
        echo "New containers of $service $1: they are removed, and the old ones serve on." >&2
    else
        echo "New containers of $service $1, and none of the old ones runs any more: nothing is removed." >&2
    fi
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

running=$(docker compose ps --quiet "$service") # there may have been another roll
old=$(containers --all)
new=
scale=$(printf '%s\n' "$old" "$running" | wc -l)
trap 'give_up "were interrupted"' INT TERM HUP
docker compose up --detach --no-deps --no-recreate --no-build --scale "$service=$((scale))" "$service" ||
    give_up "cannot be started"
new=$(containers --all | grep -vxF "$old") || give_up "have not been made"
wait_for "$new"
trap 'exit 1' INT TERM
trap '' HUP # the rest needs nobody who looks on
remove "$old"
