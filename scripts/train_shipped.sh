#!/usr/bin/env bash
# Make everything that ships again: features, models, dev scores, cards, and the README's picture and tables. Takes hours
# on two cores, and goes on where it was stopped.
#
#   scripts/train_shipped.sh DATA [RUNS]
#
# DATA is a folder that holds flickr8k/ in the layout of its official release and coco/ with dataset_coco.json and the
# photos it names; RUNS (default: runs) takes features, logs and checkpoints.
set -euo pipefail
data=${1:?usage: scripts/train_shipped.sh DATA [RUNS]}
runs=${2:-runs}
cd "$(dirname "$0")/.."

captioner features "$data/flickr8k" "$data/coco/dataset_coco.json" --split train --split restval --split dev \
    --encoder efficientnet_lite2 --cut 2 --flips --compile --output "$runs/features"
resume() { [ -e "$1/state.safetensors" ] && echo --resume || true; }
settings=(--set "data.path=$data/flickr8k" --set "data.also=[$data/coco/dataset_coco.json]" --set "data.features=$runs/features")
for name in show_attend_tell show_tell; do
    first=$runs/$name second=$runs/$name-self-critical
    captioner train "flickr8k_$name" "${settings[@]}" $(resume "$first") --output "$first"
    captioner train flickr8k_self_critical "${settings[@]}" --set "start=$first/best" $(resume "$second") --output "$second"
    python scripts/ship.py "$second" "$name" --data "$data/flickr8k"
done
python scripts/readme.py --data "$data/flickr8k" --output "$runs/benchmark"
