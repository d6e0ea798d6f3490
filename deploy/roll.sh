#!/bin/sh
# Replaces the containers of a service by ones of the present image and settings, without a gap: as many new ones are
# started beside the old, and once they are healthy the old are stopped, in order, one after the other.
#
#     sh deploy/roll.sh worker
#     sh deploy/roll.sh api        # behind the proxy: two instances cannot have the same port
set -eu

[ $# -eq 1 ] || { echo "usage: $0 SERVICE" >&2; exit 2; }
service=$1

old=$(docker compose ps --quiet "$service")
[ -n "$old" ] || { echo "No container of $service runs." >&2; exit 1; }
count=$(echo "$old" | wc -l)

docker compose up --detach --no-deps --no-recreate --no-build --wait --scale "$service=$((2 * count))" "$service"
for container in $old; do
    docker stop "$container" # within its own stop_grace_period
    docker rm "$container"
done
