#!/bin/bash
# Tries reproduce.py --slurm and srun against a real SLURM on this machine, and stops it again.
#
#   apt-get install slurm-wlm munge; pip install 'submitit>=1.5,<2'
#   PYTHON=.venv/bin/python experiments/bench/slurm.sh [srun] [array] [requeue]    # without words: all three
#
# Needs root. Nothing outside a temporary folder is written; SLURM's own configuration stays as it is.
set -eu
PARTS=" ${*:-srun array requeue} "
PYTHON=$(realpath -s "${PYTHON:-.venv/bin/python}")
SCRIPTS=$(realpath "$(dirname "$0")/..")
DIR=$(mktemp -d)
HOST=$(hostname -s)
CORES=$(nproc)
export PATH="$PATH:/usr/sbin" SLURM_CONF="$DIR/slurm.conf"

stop() {
    for daemon in slurmd slurmctld munge/munged; do
        [ ! -s "$DIR/$daemon.pid" ] || kill "$(cat "$DIR/$daemon.pid")" || true
    done
    sleep 2
    [ -n "${KEEP:-}" ] || rm -rf "$DIR"
}
trap stop EXIT
trap "exit 130" INT TERM

chmod 755 "$DIR"
mkdir -m 700 "$DIR/munge" "$DIR/state" "$DIR/spool"
(umask 077 && head -c 128 /dev/urandom > "$DIR/munge/key")
munged --force --key-file="$DIR/munge/key" --socket="$DIR/munge/socket" --pid-file="$DIR/munge/munged.pid" \
    --log-file="$DIR/munge/log" --seed-file="$DIR/munge/seed" 2> "$DIR/munge/said"
cat > "$SLURM_CONF" <<END
ClusterName=bench
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=16827
SlurmdPort=16828
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$DIR/munge/socket
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd.pid
SlurmctldLogFile=$DIR/slurmctld.log
SlurmdLogFile=$DIR/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
KillWait=10
NodeName=localhost NodeHostname=$HOST NodeAddr=127.0.0.1 CPUs=$CORES State=UNKNOWN
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
END
slurmctld -c
slurmd -N localhost
for _ in $(seq 30); do
    if sinfo -h -o %T | grep -q idle; then break; fi
    sleep 1
done
echo "SLURM: $(sinfo -h -o '%n, %c cores, %T')"

folders() {
    echo "--out=$DIR/$1/results --checkpoint_dir=$DIR/$1/originals --cache_dir=$DIR/cache"
}
PART="--datasets tiny --tables 2 --figures 4 --relearn_epochs 1 --methods retrain neggrad camu --seeds 0 1"
QUICK="--set original.epochs=1 retrain.epochs=2 camu.epochs=1 neggrad.epochs=1"

wanted() {
    case "$PARTS" in *" $1 "*) echo "--- $2" ;; *) return 1 ;; esac
}

if wanted srun "srun -n 2 run.py --dataset=tiny --devices=2"; then
    # shellcheck disable=SC2046,SC2086
    srun -n 2 "$PYTHON" "$SCRIPTS/run.py" --dataset=tiny --devices=2 --seeds=0 --limit=200 --original.epochs=2 \
        --retrain.epochs=2 --camu.epochs=2 $(folders srun) 2>&1 | grep --line-buffered -v Gloo
fi

if wanted array "reproduce.py --slurm"; then
    # shellcheck disable=SC2046,SC2086
    "$PYTHON" "$SCRIPTS/reproduce.py" $PART --limit=200 $QUICK $(folders array) --slurm --array.size=2
fi

if wanted requeue "reproduce.py --slurm, over the time limit: requeued, and on from what was kept"; then
    # shellcheck disable=SC2046,SC2086
    "$PYTHON" "$SCRIPTS/reproduce.py" --datasets tiny --tables 2 --figures 4 --methods retrain --seeds 0 --audit \
        --set retrain.epochs="${EPOCHS:-4000}" --relearn_epochs 1 $(folders requeued) --keep_minutes=0.1 \
        --slurm --array.size=1 --array.minutes=2
    grep -h Requeued "$DIR"/requeued/results/slurm/*/*.out || echo "it was not requeued: give more EPOCHS"
fi
