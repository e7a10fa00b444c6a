"""What runs in a node's container: a shell script that starts Redis, and ends it when nobody uses it any more.

It takes everything from its environment:

    WUKONG_REDIS_PASSWORD   what clients have to give
    WUKONG_REDIS_PEM        certificate and key, for TLS; else unset
    WUKONG_NODE             a second user, with the same password: "node-3.1763712000". A client that logs in by that
                            name knows which node it has reached, although addresses go from one node to another
    WUKONG_MAXMEMORY_MB     how much memory values may fill
    WUKONG_POLLS            the node ends after this many looks in a row without use
    WUKONG_POLL_S           seconds between two looks
    WUKONG_BIND             the address to listen at; all if unset
    WUKONG_PORT             the port; 6379 if unset

Use means any command except those by which the script, the health check and `wukong store status` look at the server.
Stored keys alone are no use. A server that does not answer counts as unused. The password is in no process's arguments
and in no file: Redis reads its configuration from a pipe, and `redis-cli` the password from its environment.
Certificate and key are in a file that only this user can read, which is removed as soon as Redis has read it. A shell
may lose a signal that comes while it forks, so the script sends TERM until it has had its effect, and then KILL.
"""

from __future__ import annotations

__all__ = ["HEALTH", "NODE_VARIABLE", "PASSWORD_VARIABLE", "PEM_VARIABLE", "SCRIPT", "idle_environment"]

PASSWORD_VARIABLE = "WUKONG_REDIS_PASSWORD"
PEM_VARIABLE = "WUKONG_REDIS_PEM"
NODE_VARIABLE = "WUKONG_NODE"

_MOST_POLL_S = 15.0
_LEAST_POLLS = 4

SCRIPT = r"""
umask 077
host=${WUKONG_BIND:-127.0.0.1}
port=${WUKONG_PORT:-6379}
server=redis-server
cli=redis-cli
if command -v valkey-server >/dev/null; then server=valkey-server; cli=valkey-cli; fi
folder=
if [ -n "${WUKONG_REDIS_PEM:-}" ]; then
  folder=$(mktemp -d) || exit 1
  printf '%s\n' "$WUKONG_REDIS_PEM" > "$folder/pem"
  cli="$cli --tls --insecure"
fi
configuration() {
  printf '%s\n' "bind ${WUKONG_BIND:-0.0.0.0}" 'protected-mode no' 'daemonize no' 'save ""' 'appendonly no' \
    "maxmemory ${WUKONG_MAXMEMORY_MB}mb" 'maxmemory-policy noeviction' 'maxclients 60000' 'tcp-backlog 4096' \
    "requirepass $WUKONG_REDIS_PASSWORD"
  if [ -n "${WUKONG_NODE:-}" ]; then
    printf '%s\n' "user $WUKONG_NODE on >$WUKONG_REDIS_PASSWORD allkeys allchannels allcommands"
  fi
  if [ -n "$folder" ]; then
    printf '%s\n' 'port 0' "tls-port $port" "tls-cert-file $folder/pem" "tls-key-file $folder/pem" \
      "tls-ca-cert-file $folder/pem" 'tls-auth-clients no'
  else
    printf '%s\n' "port $port"
  fi
}
uses() {
  REDISCLI_AUTH=$WUKONG_REDIS_PASSWORD timeout 5 $cli -h "$host" -p "$port" info commandstats 2>/dev/null |
    sed -n 's/^cmdstat_\([^:]*:calls=[0-9]*\).*/\1/p' | grep -vE '^(auth|ping|info|hello|command.*|client.set.*):'
}
end() {
  pid=${pid:-$!}
  [ -n "$pid" ] || exit 0
  kill "$pid" 2>/dev/null
  (
    tenths=0
    while kill "$pid" && [ "$tenths" -lt 100 ]; do sleep 0.1; tenths=$((tenths + 1)); done
    kill -9 "$pid"
  ) >/dev/null 2>&1 &
}
watch() {
  idle=0
  seen=
  while kill -0 "$pid" 2>/dev/null && sleep "$WUKONG_POLL_S" >/dev/null 2>&1; do
    used=$(uses)
    if [ -n "$used" ] && [ "$used" != "$seen" ]; then seen=$used; idle=0; else idle=$((idle + 1)); fi
    if [ -n "$used" ] && [ -n "$folder" ]; then rm -f "$folder/pem"; fi
    if [ "$idle" -ge "$WUKONG_POLLS" ]; then echo "nobody uses this node any more"; end; return; fi
  done
}
pid=
trap 'echo "told to end"; end' TERM INT
configuration | (unset WUKONG_REDIS_PASSWORD WUKONG_REDIS_PEM; exec "$server" -) &
pid=$!
watch &
watcher=$!
status=0
while kill -0 "$pid" 2>/dev/null; do
  wait "$pid"
  status=$?
done
kill "$watcher" 2>/dev/null
[ -z "$folder" ] || rm -rf "$folder"
exit "$status"
"""

HEALTH = (
    'REDISCLI_AUTH="$WUKONG_REDIS_PASSWORD" $(command -v valkey-cli || echo redis-cli) '
    "${WUKONG_REDIS_PEM:+--tls --insecure} "
    '-h "${WUKONG_BIND:-127.0.0.1}" -p "${WUKONG_PORT:-6379}" ping | grep -q PONG'
)


def idle_environment(idle_s: float) -> dict[str, str]:
    """Return the variables that make the script end a node after `idle_s` without use."""
    poll_s = min(_MOST_POLL_S, idle_s / _LEAST_POLLS)
    return {"WUKONG_POLL_S": f"{poll_s:g}", "WUKONG_POLLS": str(max(1, round(idle_s / poll_s)))}
