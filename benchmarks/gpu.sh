#!/usr/bin/env bash
# What a GPU makes of the paper's networks, in at most nine minutes and without a network; see docs/gpu.md.
#
#   benchmarks/gpu.sh --pack DIR               here, once: wheels and a small prepared data set into DIR
#   benchmarks/gpu.sh OUT [--carried DIR] [--seconds 540] [--dry] [--parts ...] [--strategies ...]
#
# PYTHON names the interpreter (default python3; torch must be in it already).
set -euo pipefail
started=$(date +%s)
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
limit_mib=60
# What a machine with torch, torchvision, Lightning and transformers may still lack. Not decord, wandb,
# lpips and scenedetect: no training and no generation imports them.
packages=(omegaconf diffusers av librosa soxr soundfile audioread pooch lazy-loader decorator)

pack() {
    local into=$1 wheels=$1/wheels specs=() name
    mkdir -p "$wheels"
    for name in "${packages[@]}"; do
        specs+=("$(grep -E -m1 "^$name==" requirements.lock | sed 's/[ ;\\].*//')")
    done
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
        --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d "$wheels" "${specs[@]}"
    "$python" -c "
from thbench.data.synthetic.make import synthesize
synthesize('$into/data', identities=4, seconds=1.0, size=64, workers=1,
           splits={'train': 2, 'val': 1, 'test': 1})
"
    rm -rf "$into/data/raw"
    local mib
    mib=$(du -sm "$into" | cut -f1)
    if [ "$mib" -gt "$limit_mib" ]; then
        echo "gpu.sh: $into has $mib MiB, more than the $limit_mib MiB that can be carried" >&2
        exit 2
    fi
    echo "packed $mib MiB into $into: ${specs[*]}"
}

# Only wheels of packages that this interpreter lacks, so that nothing that is installed is replaced.
unpack() {
    local carried=$1 site=$2 wheel name missing=()
    for wheel in "$carried"/wheels/*.whl; do
        name=$(basename "$wheel" | cut -d- -f1)
        "$python" -c "import sys; from importlib.metadata import version; version(sys.argv[1])" "$name" \
            2>/dev/null || missing+=("$wheel")
    done
    [ ${#missing[@]} -eq 0 ] && return
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "${missing[@]}"
    echo "unpacked: $(for wheel in "${missing[@]}"; do basename "$wheel"; done | tr '\n' ' ')"
}

if [ "${1:-}" = --pack ]; then
    pack "${2:?say where to: gpu.sh --pack DIR}"
    exit
fi
out=${1:?say where results go: gpu.sh OUT}
shift
carried="" seconds=540 rest=()
while [ $# -gt 0 ]; do
    case $1 in
        --carried) carried=$(realpath "$2"); shift 2 ;;
        --seconds) seconds=$2; shift 2 ;;
        *) rest+=("$1"); shift ;;
    esac
done
mkdir -p "$out"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8} HF_HUB_OFFLINE=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
if [ -n "$carried" ]; then
    site=$(realpath "$out")/site
    unpack "$carried" "$site"
    PYTHONPATH=$PYTHONPATH:$site
    [ -d "$carried/data" ] && export THBENCH_CARRIED=$carried/data
fi
if ! why=$("$python" -c "import torch, torchvision; torchvision.ops.nms" 2>&1); then
    echo "gpu.sh: torch and torchvision do not fit together here: $(tail -n 1 <<<"$why")" >&2
    echo "gpu.sh: install the torchvision of this torch's release (PyTorch's page of versions)" >&2
    exit 2
fi
missing=$("$python" - <<'END'
from importlib.util import find_spec
wanted = ("omegaconf", "diffusers", "lightning", "transformers", "av", "librosa", "numba", "cv2", "pytest")
print(*(name for name in wanted if find_spec(name) is None))
END
)
if [ -n "$missing" ]; then
    echo "gpu.sh: this machine lacks $missing: gpu.sh --pack DIR elsewhere, and --carried DIR here" >&2
    exit 2
fi
spent=$(($(date +%s) - started))
exec "$python" -m benchmarks.gpu "$out" --seconds $((seconds - spent)) "${rest[@]}"
