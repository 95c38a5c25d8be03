#!/usr/bin/env bash
# Make everything that ships, except the detector, again: features, models, dev scores, cards, and the README's figure and
# tables. Takes about seven hours on two cores; run again, it resumes.
#
#   scripts/train_shipped.sh DATA [RUNS] [NAME...]
#
# DATA is a folder that holds flickr8k/ in the layout of its official release, coco/ with dataset_coco.json, the images
# it names and person_boxes.json, boxes/ and multi30k/. In boxes/ instances_train.json has boxes of training images; the
# images of docs/grounding_test.txt are in images/, their captions in captions_val.json and their boxes in
# instances_val.json, in COCO's format with a coco_id for each image. RUNS (default: runs) takes features, logs and
# checkpoints. NAMEs choose among the models, and all translators together; all by default. SEED (default: 0) makes
# other members of an ensemble: give each its own RUNS.
# scripts/train_detector.py makes the detector.
set -euo pipefail
data=${1:?usage: scripts/train_shipped.sh DATA [RUNS] [NAME...]}
runs=${2:-runs}
shift $(($# < 2 ? $# : 2))
cd "$(dirname "$0")/.."

chosen=("$@")
[ $# -gt 0 ] || chosen=(
    show_attend_tell # the first one, as the others take its encoder
    show_tell transformer regions_top_down regions_transformer translators
)
settings=(
    --set "data.path=$data/flickr8k" --set "data.also=[$data/coco/dataset_coco.json]"
    --set data.exclude=docs/grounding_test.txt --set data.flips=false --set "seed=${SEED:-0}"
)
tuned=$runs/show_attend_tell # the run that tunes the encoder; the other models on the grid reuse it

resume() { [ -e "$1/state.safetensors" ] && echo --resume || true; }

# Encode the images once for all models of one encoder.
features() {
    case $1 in
    grid) local made=(flickr8k_transformer --set "encoder_from=$tuned/last") ;;
    regions) local made=(flickr8k_regions_transformer) ;;
    esac
    captioner features "${made[@]}" "${settings[@]}" --output "$runs/features-$1"
}

# Cross-entropy of soft attention, which tunes the encoder; boxes supervise its attention.
tune() {
    features regions
    python scripts/supervision_boxes.py "$data/boxes/instances_train.json" "$data/coco/person_boxes.json" \
        --data "$data/flickr8k" --data "$data/coco/dataset_coco.json" --regions "$runs/features-regions" \
        -o "$runs/boxes.json"
    captioner train flickr8k_cropped_show_attend_tell "${settings[@]}" --set data.flips=true \
        --set "data.boxes=$runs/boxes.json" --set objective.grounding=1 $(resume "$tuned") --output "$tuned"
}

# The second stage of a model: self_critical START STORE OUTPUT [SETTING...].
self_critical() {
    local start=$1 store=$2 output=$3
    shift 3
    captioner train flickr8k_self_critical "${settings[@]}" --set "start=$start/last" --set "data.features=$store" \
        "$@" $(resume "$output") --output "$output"
}

translators() {
    local family run=$runs/multi30k compared=()
    for family in seq2seq attention transformer; do
        captioner train multi30k_$family --set "data.path=$data/multi30k" $(resume "${run}_$family") \
            --output "${run}_$family"
        compared+=("$family=${run}_$family")
    done
    python scripts/ship.py "${run}_attention" "${run}_transformer" translator_en_de --data "$data"
    python scripts/bench_translation.py --data "$data/multi30k" "${compared[@]}"
}

for name in "${chosen[@]}"; do
    first=$runs/$name second=$runs/$name-self-critical
    case $name in
    translators)
        translators
        continue
        ;;
    show_attend_tell)
        tune
        features grid
        self_critical "$first" "$runs/features-grid" "$second"
        python scripts/ship.py "$second" "$name" --data "$data"
        continue
        ;;
    regions_*) store=regions encoder=null ;;
    *) store=grid encoder=$tuned/last ;;
    esac
    features $store
    captioner train "flickr8k_$name" "${settings[@]}" --set "encoder_from=$encoder" --set epochs=6 \
        --set "data.features=$runs/features-$store" $(resume "$first") --output "$first"
    self_critical "$first" "$runs/features-$store" "$second" --set consensus=null
    python scripts/ship.py "$first" "$second" "$name" --data "$data" # the better one
done
python scripts/readme.py --data "$data" --output "$runs/benchmark"
