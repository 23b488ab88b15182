#!/usr/bin/env bash
# Makes the weights of the bundled tiny base with this project's own prepare and train steps:
#   components/shared/tiny_base_recipe/make.sh WORK_FOLDER     (from the repository's root, with the project installed)
# The three stages ran on one NVIDIA H200 with 16 CPU cores.
# Fonts, all from Debian 12: apt-get install fonts-liberation fonts-lato fonts-open-sans fonts-noto-core fonts-roboto-unhinted
#   fonts-crosextra-carlito fonts-crosextra-caladea fonts-freefont-ttf fonts-sil-gentiumplus fonts-cabin fonts-cantarell
#   fonts-ebgaramond fonts-inter fonts-linuxlibertine fonts-quattrocento
set -euo pipefail
work=$1
here=components/shared/tiny_base
recipe=components/shared/tiny_base_recipe
# The hash seed is fixed because some of SciPy's docstrings print a set.
export MLFLOW_TRACKING_URI=off HF_HUB_OFFLINE=1 PYTHONHASHSEED=0

mkdir -p "$work/fonts"
while read -r font; do
  cp "$(find /usr/share/fonts -name "$font" -not -path '*/hinted/*' | head -n 1)" "$work/fonts/"
done < "$recipe/fonts.txt"

python -m components.shared.tiny_base_recipe.texts "$work/texts.jsonl" --documents 72000 --seed 0
python -m components.prepare --source "$work/texts.jsonl" --max_documents 42000 --fonts "$work/fonts" \
  --font_sizes 16,18,20,22,24 --lines_per_page 1,4 --eval_fraction 0.01 --max_eval_pages 1000 \
  --max_samples_per_shard 5000 --text_engine pillow --workers 16 --output_dir "$work/pages"
stage() { # name, base, steps, highest learning rate, seed
  python -m components.train --base_model "$2" --dataset_dir "$work/pages" --output_dir "$work/$1" --backend standard \
    --peft none --max_steps "$3" --per_device_train_batch_size 64 --learning_rate "$4" --seed "$5" \
    --warmup_ratio 0.03 --weight_decay 0.01 --num_train_epochs 100 --logging_steps 20 --dataloader_num_workers 10
}
python -m components.shared.tiny_base_recipe.tiny_models paddleocr_vl "$work/blank"
stage stage1 "$work/blank" 6900 1e-3 0
stage stage2 "$work/stage1" 4000 1e-3 1
stage stage3 "$work/stage2" 1150 6e-4 2
cp "$work"/stage3/{model.safetensors,config.json} "$here/"
cp "$work"/blank/{chat_template.jinja,generation_config.json,processor_config.json,tokenizer.json,tokenizer_config.json} "$here/"
