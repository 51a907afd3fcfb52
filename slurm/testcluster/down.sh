#!/bin/bash
# Stop what up.sh started, by pid file only. --wipe: also remove state (queue, accounting db, logs).
# --keep-munge: leave munged.
set -uo pipefail
B=/var/lib/slurm-test; RUN=/run/slurm-test; LOG=/var/log/slurm-test
stop() { # pidfile comm [seconds]
  local p; p=$(cat "$1" 2>/dev/null) || return 0
  on() { grep -q "^$p ($2) [^Z]" /proc/$p/stat 2>/dev/null; }   # a zombie awaiting its reaper counts as gone
  on "$@" || { rm -f "$1"; return 0; }
  kill -TERM "$p"; for ((i=0;i<${3:-20}*10;i++)); do on "$@" || break; sleep 0.1; done
  if on "$@"; then echo "[down] $2 ($p) did not stop, SIGKILL"; kill -KILL "$p"; fi
  rm -f "$1"; echo "[down ${SECONDS}s] $2 ($p) stopped"; }
wipe=0; munge=1; for a in "$@"; do case $a in --wipe) wipe=1;; --keep-munge) munge=0;; esac; done
# jobs outlive slurmd (their slurmstepd keeps running): cancel them first so nothing is left behind
if [ -s $RUN/slurmctld.pid ] && timeout 5 scontrol ping >/dev/null 2>&1; then
  ids=$(timeout 5 squeue -h -o %A | sort -u); [ -n "$ids" ] && { timeout 10 scancel $ids
    for ((i=0;i<150;i++)); do [ -z "$(timeout 5 squeue -h -t R,CG,S,CF -o %A)" ] && break; sleep 0.1; done; }
fi
for f in $RUN/slurmd.*.pid; do [ -e "$f" ] && stop "$f" slurmd; done
stop $RUN/slurmctld.pid slurmctld
stop $RUN/slurmdbd.pid slurmdbd 30
stop $RUN/mariadbd.pid mariadbd 30
[ $munge = 1 ] && stop /run/munge/munged.pid munged
for c in /sys/fs/cgroup/memory/slurm_n*; do [ -d "$c" ] && find "$c" -depth -type d -exec rmdir {} \; 2>/dev/null; done
[ $wipe = 1 ] && rm -rf $B $RUN $LOG && echo "[down] state removed"
exit 0
