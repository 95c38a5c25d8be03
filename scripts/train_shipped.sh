#!/usr/bin/env bash
# Make everything that ships again but the detector: features, models, dev scores, cards, and the README's figure and
# tables. Takes many hours on two cores; run again, it resumes.
#
#   scripts/train_shipped.sh DATA [RUNS] [NAME...]
#
# DATA is a folder that holds flickr8k/ in the layout of its official release, coco/ with dataset_coco.json and the
# images it names, and multi30k/ for the translators. The last step, scripts/readme.py, scores all captioners, their
# attention too on the images of docs/grounding_test.txt: boxes/ has these in images/, their captions in captions_val.json
# and their boxes in instances_val.json, in COCO's format with a coco_id for each image. RUNS (default: runs) takes
# features, logs and checkpoints. NAMEs choose among the models, and all translators together; all by default.
# scripts/train_detector.py makes the detector.
set -euo pipefail
data=${1:?usage: scripts/train_shipped.sh DATA [RUNS] [NAME...]}
runs=${2:-runs}
shift $(($# < 2 ? $# : 2))
cd "$(dirname "$0")/.."

chosen=("$@")
[ $# -gt 0 ] || chosen=(
    show_attend_tell # the first one, as the others take its encoder
    show_tell hard_attention top_down transformer
    regions_show_attend_tell regions_top_down regions_transformer grid_regions_transformer translators
)
settings=(
    --set "data.path=$data/flickr8k" --set "data.also=[$data/coco/dataset_coco.json]"
    --set data.exclude=docs/grounding_test.txt
)

# Encode the images once for all models of one encoder.
features() {
    local recipe store=$runs/features-$1
    case $1 in
    cut) recipe=flickr8k_cropped_show_attend_tell ;;
    grid) recipe=flickr8k_transformer ;;
    regions) recipe=flickr8k_regions_transformer ;;
    both)
        recipe=flickr8k_grid_regions_transformer
        features grid
        features regions
        mkdir -p "$store"
        ln -sfn ../features-grid "$store/grid"
        ln -sfn ../features-regions "$store/regions"
        ;;
    esac
    captioner features $recipe "${settings[@]}" --output "$store"
}
resume() { [ -e "$1/state.safetensors" ] && echo --resume || true; }

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

# The default model: cross-entropy, the same at a lower rate, and the mean of two self-critical runs; from there the whole
# encoder on varied images, which needs a GPU, and the mean of two self-critical runs again.
soft_attention() {
    local begun=$first-begun wide=$first-wide
    captioner train flickr8k_cropped_show_attend_tell "${with[@]}" $(resume "$begun") --output "$begun"
    captioner train flickr8k_cropped_show_attend_tell "${with[@]}" --set "start=$begun/best" --set epochs=12 \
        --set optimiser.learning_rate=0.0012 --set optimiser.warmup=0.03 --set fine_tune.learning_rate=0.0002 \
        $(resume "$first") --output "$first"
    both "$first/best" 0
    captioner train flickr8k_augmented_show_attend_tell "${settings[@]}" --set "start=$first-soup" --set epochs=7 \
        --set data.augment.crop=0.5 --set optimiser.learning_rate=0.0012 --set optimiser.warmup=0.03 --set seed=2 \
        $(resume "$wide") --output "$wide"
    store=$runs/features-wide
    captioner features flickr8k_self_critical "${settings[@]}" --set "start=$wide/last" --set fine_tune.from_epoch=1 \
        --set fine_tune.stages=3 --set data.flips=false --output "$store"
    with=("${settings[@]}" --set "data.features=$store" --set data.flips=false)
    both "$wide/last" 1 --set objective.length=1
    python scripts/ship.py "$first-soup" "$name" --data "$data" --encoder-bits 8
}

# The mean of two self-critical runs: both START SEED [SETTING...]. The first has the settings; the second has the seed, and
# trains the encoder's last three stages as well.
both() {
    local start=$1 seed=$2 one=${1%/*}-self-critical
    local again=(captioner train flickr8k_self_critical "${with[@]}" --set "start=$start" --set epochs=2
        --set objective.bleu=1)
    shift 2
    "${again[@]}" --set data.flips=false "$@" $(resume "$one") --output "$one"
    "${again[@]}" --set "seed=$seed" --set fine_tune.from_epoch=1 --set fine_tune.stages=3 \
        --set fine_tune.learning_rate=0.00002 --set data.augment.crop=0.7 --set data.augment.stored=true \
        $(resume "$one-encoder") --output "$one-encoder"
    python scripts/soup.py "$one" "$one-encoder" --output "$first-soup"
}

for name in "${chosen[@]}"; do
    if [ "$name" = translators ]; then
        translators
        continue
    fi
    case $name in
    show_attend_tell) store=cut ;;
    grid_regions_*) store=both ;;
    regions_*) store=regions ;;
    *) store=grid ;;
    esac
    features $store
    with=("${settings[@]}" --set "data.features=$runs/features-$store")
    first=$runs/$name second=$runs/$name-self-critical
    if [ "$name" = show_attend_tell ]; then
        soft_attention
        continue
    fi
    captioner train "flickr8k_$name" "${with[@]}" $(resume "$first") --output "$first"
    captioner train flickr8k_self_critical "${with[@]}" --set "start=$first/best" $(resume "$second") --output "$second"
    python scripts/ship.py "$first" "$second" "$name" --data "$data" # the better one
done
python scripts/readme.py --data "$data" --output "$runs/benchmark"
