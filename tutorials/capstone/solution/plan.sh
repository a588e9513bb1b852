#!/usr/bin/env bash
# The runs of the model solution. First `bash plan.sh tune FOLDER`. Then write the best learning rates
# into the second part, and `bash plan.sh final FOLDER`.
set -euo pipefail
part=$1
folder=$2

run() { # name, seed, options
  name=$1 seed=$2
  shift 2
  python -m training --task qa --seed "$seed" --samples 0 --trackers '' --out "$folder/$name-$seed" "$@"
}

bottleneck=(--method bottleneck --placement parallel --reduction-factor 4)
if [ "$part" = tune ]; then
  # the best of the first three was at the edge for head, bottleneck and full: so each has a fourth
  for rate in 0.003 0.01 0.03 0.1; do run "tune-head-$rate" 1000 --method head --learning-rate $rate; done
  for rate in 0.0015 0.005 0.015; do run "tune-lora-$rate" 1000 --method lora --learning-rate $rate; done
  for rate in 0.003 0.01 0.03 0.1; do run "tune-bottleneck-$rate" 1000 "${bottleneck[@]}" --learning-rate $rate; done
  for rate in 0.0003 0.001 0.003 0.01; do run "tune-full-$rate" 1000 --method full --learning-rate $rate; done
else
  for seed in 0 1 2; do
    run untouched "$seed" --method untouched
    run head "$seed" --method head --learning-rate 0.03
    run lora "$seed" --method lora --learning-rate 0.005
    run bottleneck "$seed" "${bottleneck[@]}" --learning-rate 0.03
    run bottleneck-longer "$seed" "${bottleneck[@]}" --learning-rate 0.03 --steps 600
    run full "$seed" --method full --learning-rate 0.003
  done
fi
