#!/usr/bin/env bash
# Makes the weights of the bundled tiny base with this project's own prepare and train steps:
#   components/shared/tiny_base/make.sh WORK_FOLDER     (from the repository's root, with the project installed)
# Stages 1 to 3 ran on one NVIDIA H200 (16 CPU cores; about 16, 8 and 2.5 minutes), stage 4 on 2 CPU cores.
# Fonts, all from Debian 12: apt-get install fonts-liberation fonts-lato fonts-open-sans fonts-noto-core fonts-roboto-unhinted
#   fonts-crosextra-carlito fonts-crosextra-caladea fonts-freefont-ttf fonts-sil-gentiumplus fonts-cabin fonts-cantarell
#   fonts-ebgaramond fonts-inter fonts-linuxlibertine fonts-quattrocento
set -euo pipefail
work=$1
here=components/shared/tiny_base
export MLFLOW_TRACKING_URI=off HF_HUB_OFFLINE=1

mkdir -p "$work/fonts"
while read -r font; do
  cp "$(find /usr/share/fonts -name "$font" -not -path '*/hinted/*' | head -n 1)" "$work/fonts/"
done < "$here/fonts.txt"

python -m components.shared.tiny_base.texts "$work/texts.jsonl" --documents 72000 --seed 0
python -m components.prepare --source "$work/texts.jsonl" --max_documents 42000 --fonts "$work/fonts" \
  --font_sizes 16,18,20,22,24 --lines_per_page 1,4 --eval_fraction 0.01 --max_eval_pages 1000 \
  --max_samples_per_shard 5000 --workers 16 --output_dir "$work/pages"
# The last stage sees no random characters and the three larger sizes alone: the kind of page the model card promises.
python -m components.shared.tiny_base.texts "$work/words.jsonl" --documents 12000 --seed 2 --kinds prose,words
python -m components.prepare --source "$work/words.jsonl" --fonts "$work/fonts" --font_sizes 20,22,24 \
  --lines_per_page 1,4 --eval_fraction 0 --max_train_pages 26000 --max_samples_per_shard 5000 --output_dir "$work/pages4"

stage() { # name, base, dataset, steps, pages a step, highest learning rate, seed
  python -m components.train --base_model "$2" --dataset_dir "$3" --output_dir "$work/$1" --backend standard \
    --peft none --max_steps "$4" --per_device_train_batch_size "$5" --learning_rate "$6" --seed "$7" \
    --warmup_ratio 0.03 --weight_decay 0.01 --num_train_epochs 100 --logging_steps 20 --dataloader_num_workers 10
}
python -m components.shared.tiny_models paddleocr_vl "$work/blank"
stage stage1 "$work/blank" "$work/pages" 6900 64 1e-3 0
stage stage2 "$work/stage1" "$work/pages" 4000 64 1e-3 1
stage stage3 "$work/stage2" "$work/pages" 1150 64 6e-4 2
stage stage4 "$work/stage3" "$work/pages4" 420 32 5e-4 3
cp "$work"/stage4/{model.safetensors,config.json} "$here/"
cp "$work"/blank/{chat_template.jinja,generation_config.json,processor_config.json,tokenizer.json,tokenizer_config.json} "$here/"
