#!/bin/bash
# Real Slurm (munge + slurmctld + slurmd, + slurmdbd/MariaDB for sacct) on one Debian 12 box, as root, no systemd.
# Idempotent: run again at any time. Stop with down.sh (kills by pid file only; --wipe also drops state).
# Knobs: SLURM_TEST_ACCT=dbd|none  SLURM_TEST_NODES=2  SLURM_TEST_CPUS=4 (per virtual node; may exceed hardware)
#        SLURM_TEST_MEM=4000 (MB per node)  SLURM_TEST_ENFORCE= (e.g. associations)
#        SLURM_TEST_EXTRA= (slurm.conf lines)
#        SLURM_TEST_OOM=poll|cgroup|off (poll: 1 s RSS polling, works anywhere; cgroup: real OOM, needs cgroup v1 memory)
set -euo pipefail
ACCT=${SLURM_TEST_ACCT:-dbd}; NODES=${SLURM_TEST_NODES:-2}; CPUS=${SLURM_TEST_CPUS:-4}; MEM=${SLURM_TEST_MEM:-4000}
OOM=${SLURM_TEST_OOM:-poll}; ENFORCE=${SLURM_TEST_ENFORCE:-}; EXTRA=${SLURM_TEST_EXTRA:-}
B=/var/lib/slurm-test; RUN=/run/slurm-test; LOG=/var/log/slurm-test; ETC=/etc/slurm; H=$(hostname -s); DBPORT=13306
[ "$(id -u)" = 0 ] || { echo "run as root" >&2; exit 1; }
if [ -e $ETC/slurm.conf ] && ! grep -q "^StateSaveLocation=$B" $ETC/slurm.conf; then
  echo "$ETC/slurm.conf is of another cluster: not touched" >&2; exit 1; fi
SELF=$(dirname "$(readlink -f "$0")"); cd /
t0=$(date +%s.%N); el() { awk -v a="$t0" -v b="$(date +%s.%N)" 'BEGIN{printf "%.1fs", b-a}'; }
say() { echo "[up $(el)] $*"; }
alive() { # pidfile comm -> true when that pid runs that program (a zombie does not count)
  local p; p=$(cat "$1" 2>/dev/null) && [ -n "$p" ] && grep -q "^$p ($2) [^Z]" /proc/$p/stat 2>/dev/null; }
wait_for() { local n=$1 o; shift
  for ((i=0;i<n*10;i++)); do o=$("$@" 2>&1) && return 0; sleep 0.1; done
  echo "timeout waiting for: $*: $o" >&2; return 1; }

# 1. packages -----------------------------------------------------------------
need="slurmctld slurmd slurm-client munge"; [ "$ACCT" = dbd ] && need="$need slurmdbd mariadb-server"
installed() { [ "$(dpkg-query -W -f='${Status}' $1 2>/dev/null)" = "install ok installed" ]; }
miss=""; for p in $need; do installed $p || miss="$miss $p"; done
if [ -n "$miss" ]; then
  say "installing$miss"
  export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
  # keep package scripts from starting daemons (containers mostly have this file already)
  created=""; [ -e /usr/sbin/policy-rc.d ] || { created=1
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; }
  install -d -m 755 $LOG
  apt-get update -q >$LOG/apt.log 2>&1
  apt-get install -y -q --no-install-recommends $miss >>$LOG/apt.log 2>&1 || { tail -20 $LOG/apt.log >&2; exit 1; }
  [ -n "$created" ] && rm -f /usr/sbin/policy-rc.d
  say "packages installed"
fi

# 2. directories + config ------------------------------------------------------
install -d -m 755 $B $B/ctld $RUN $LOG $ETC
nodes=""; for ((k=1;k<=NODES;k++)); do install -d $B/d.n$k
  nodes="$nodes
NodeName=n$k NodeHostname=$H NodeAddr=127.0.0.1 Port=$((17000+k)) CPUs=$CPUS RealMemory=$MEM State=UNKNOWN"; done
if [ "$ACCT" = dbd ]; then acct="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1"; [ -n "$ENFORCE" ] && acct="$acct
AccountingStorageEnforce=$ENFORCE"
else acct="AccountingStorageType=accounting_storage/none"; fi
task=task/none; gather=UsePss; rm -f $ETC/cgroup.conf
case $OOM in poll) gather=OverMemoryKill,UsePss;; cgroup) task=task/cgroup
  printf '%s\n' CgroupPlugin=cgroup/v1 CgroupAutomount=no CgroupMountpoint=/sys/fs/cgroup ConstrainRAMSpace=yes \
    ConstrainSwapSpace=yes AllowedRAMSpace=100 AllowedSwapSpace=0 >$ETC/cgroup.conf;; esac
cat >$ETC/slurm.conf.new <<EOF
ClusterName=bench
SlurmctldHost=$H(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a requeued job is held until its old credential expires (120 s by default): make that short
AuthInfo=cred_expire=5
StateSaveLocation=$B/ctld
SlurmdSpoolDir=$B/d.%n
SlurmctldPidFile=$RUN/slurmctld.pid
SlurmdPidFile=$RUN/slurmd.%n.pid
SlurmctldLogFile=$LOG/slurmctld.log
SlurmdLogFile=$LOG/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=$task
MpiDefault=none
# trust the CPUs/RealMemory below even when they exceed the hardware
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
# without this a job that asks for no memory takes the whole node
DefMemPerCPU=200
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=$gather
ReturnToService=2
# reject at sbatch what can never run, instead of leaving it pending for ever
EnforcePartLimits=ALL
SlurmdTimeout=10
SlurmctldTimeout=10
KillWait=5
MinJobAge=300
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=0
# send the job its --signal at preemption, not a bare SIGTERM (submitit ignores SIGTERM)
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
$acct
JobCompType=jobcomp/filetxt
JobCompLoc=$LOG/jobcomp.txt
$EXTRA$nodes
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
EOF
changed=0; cmp -s $ETC/slurm.conf.new $ETC/slurm.conf || changed=1; mv $ETC/slurm.conf.new $ETC/slurm.conf
[ $changed = 1 ] && alive $RUN/slurmctld.pid slurmctld && \
  say "slurm.conf changed while slurm runs: run down.sh first if it does not come up as wanted"

# 3. munge ---------------------------------------------------------------------
[ -s /etc/munge/munge.key ] || runuser -u munge -- /usr/sbin/mungekey --create
install -d -o munge -g munge -m 755 /run/munge
if ! munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then
  rm -f /run/munge/munge.socket.2*; runuser -u munge -- /usr/sbin/munged; fi
wait_for 10 sh -c 'munge -n | unmunge'; say "munged up (pid $(cat /run/munge/munged.pid 2>/dev/null))"

# 4. MariaDB + slurmdbd (for sacct) ----------------------------------------------
if [ "$ACCT" = dbd ]; then
  D=$B/mysql; S=$RUN/mysql.sock
  if ! alive $RUN/mariadbd.pid mariadbd; then
    if [ ! -d $D/mysql ]; then install -d -o mysql -g mysql $D
      mariadb-install-db --no-defaults --user=mysql --datadir=$D --skip-test-db \
        --auth-root-authentication-method=socket >$LOG/mariadb-install.log 2>&1; say "database initialised"; fi
    chown mysql $RUN
    setsid mariadbd --no-defaults --user=mysql --datadir=$D --socket=$S --bind-address=127.0.0.1 --port=$DBPORT \
      --pid-file=$RUN/mariadbd.pid --innodb-buffer-pool-size=64M --innodb-log-file-size=32M --innodb-lock-wait-timeout=900 \
      --innodb-flush-log-at-trx-commit=0 --skip-name-resolve --log-error=$LOG/mariadbd.log </dev/null >/dev/null 2>&1 &
    disown
    wait_for 30 mariadb-admin --no-defaults -S $S ping
  fi
  mariadb --no-defaults -S $S -e "CREATE DATABASE IF NOT EXISTS slurm_acct_db;
    CREATE USER IF NOT EXISTS slurm@'127.0.0.1' IDENTIFIED BY 'slurm';
    GRANT ALL ON slurm_acct_db.* TO slurm@'127.0.0.1';"
  say "mariadbd up (pid $(cat $RUN/mariadbd.pid))"
  (umask 077; cat >$ETC/slurmdbd.conf <<EOF
AuthType=auth/munge
DbdHost=localhost
SlurmUser=root
PidFile=$RUN/slurmdbd.pid
LogFile=$LOG/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$DBPORT
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
EOF
  ); chmod 600 $ETC/slurmdbd.conf
  alive $RUN/slurmdbd.pid slurmdbd || { rm -f $RUN/slurmdbd.pid; setsid slurmdbd </dev/null >/dev/null 2>&1; }
  wait_for 30 sacctmgr -n list cluster; say "slurmdbd up (pid $(cat $RUN/slurmdbd.pid))"
  [ -n "$(sacctmgr -nP list cluster bench format=cluster)" ] || sacctmgr -i -Q add cluster bench >/dev/null
  [ -n "$(sacctmgr -nP list account bench format=account)" ] || sacctmgr -i -Q add account bench cluster=bench >/dev/null
  [ -n "$(sacctmgr -nP list assoc user=root account=bench format=user)" ] || \
    sacctmgr -i -Q add user root account=bench >/dev/null
fi

# 5. slurmctld + slurmd ----------------------------------------------------------
alive $RUN/slurmctld.pid slurmctld || { rm -f $RUN/slurmctld.pid; setsid slurmctld </dev/null >/dev/null 2>&1; }
wait_for 20 scontrol ping
for ((k=1;k<=NODES;k++)); do
  alive $RUN/slurmd.n$k.pid slurmd || { rm -f $RUN/slurmd.n$k.pid; setsid slurmd -N n$k </dev/null >/dev/null 2>&1; }; done
up() { [ -z "$(sinfo -hN -o '%T' | grep -vE '^(idle|mixed|allocated|completing)$')" ] && [ -n "$(sinfo -h)" ]; }
wait_for 30 up || { sinfo -N -l >&2; sinfo -R >&2; exit 1; }
[ "$ACCT" = dbd ] && wait_for 20 sh -c "[ \"\$(sacctmgr -nP list cluster bench format=controlport)\" != 0 ]"
say "up"; sinfo
echo "stop with: $SELF/down.sh   (--wipe also removes job state and the accounting database)"
