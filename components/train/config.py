"""The train step's settings, named as in transformers' TrainingArguments and PEFT's LoraConfig."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from components.shared.programs.step_config import Seed, StepConfig
from components.train.presets import with_preset


class TrainConfig(StepConfig):
    """Fine-tune a vision-language model on prepared pages with LoRA, or all of its weights."""

    dataset_dir: Path
    """the dataset folder that the prepare step wrote"""
    output_dir: Path
    """the folder to create; it must not exist, or be empty"""
    preset: str | None = None
    """a named set of settings, see presets.yaml: minimal, standard, high_capacity, qlora_4bit, qlora_8bit,
    unsloth_4bit, unsloth_long_context; explicit settings override it (but deepsynth's --set train.preset overrides
    those of a config file)"""
    base_model: str = "tiny-base"
    """a model folder, a hub id such as deepseek-community/DeepSeek-OCR-2, or tiny-base (bundled)"""
    revision: str | None = None
    """hub models: the commit, tag or branch"""
    trust_remote_code: bool = False
    """run code that comes with the model; hub models need a pinned revision"""
    backend: Literal["auto", "unsloth", "standard"] = "auto"
    """the training library: auto uses Unsloth if the package is installed and there is a CUDA device (of compute
    capability 8.0 or more, unless dtype is float32), else transformers and PEFT (standard)"""
    peft: Literal["lora", "none"] = "lora"
    """lora: train an adapter; none: train all weights and write the whole model"""
    r: int = Field(16, ge=1)
    """rank of the adapter's matrices"""
    lora_alpha: int = Field(32, ge=1)
    """the adapter's output is scaled by lora_alpha / r"""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """dropout on the adapter's input"""
    use_rslora: bool = False
    """scale the adapter's output by lora_alpha / sqrt(r) instead"""
    init_lora_weights: Literal["default", "loftq"] = "default"
    """the adapter's initial values. default: the adapter has no effect at first; loftq: the best rank-r approximation
    of load_in_4bit's quantisation error. loftq reads the base a second time, in 16 bits, into host memory, and saves
    the adapter as the difference from its initial values, with twice the rank, so that it fits the 16-bit base"""
    loftq_iter: int = Field(1, ge=1)
    """with loftq: how many times quantisation and adapter are alternately fitted; 1 keeps the quantised weights"""
    target_modules: list[str] | None = None
    """names of the modules that LoRA adapts: full names, or suffixes. A suffix selects modules of the language model
    if any match. If not set: the projections of the language model"""
    finetune_vision_layers: bool = False
    """adapt the vision encoder and the projector as well; with target_modules, only their modules that it names"""
    load_in_4bit: bool = False
    """load the frozen weights in 4 bits (nf4, double quantisation); needs bitsandbytes"""
    load_in_8bit: bool = False
    """load the frozen weights in 8 bits; needs a CUDA device"""
    quantize_experts: bool = True
    """with load_in_4bit or load_in_8bit: also quantise the fused weights of a mixture of experts, which bitsandbytes
    does not quantise; if false, they stay in 16 bits (with the Unsloth backend, Unsloth decides)"""
    upcast_unquantized: bool = False
    """with load_in_4bit or load_in_8bit: convert the weights that are not quantised to float32, as PEFT's
    prepare_model_for_kbit_training does; needs more memory (standard backend only)"""
    adapt_experts: bool = False
    """adapt the fused weights of a mixture of experts as well; the standard backend then does not quantise them"""
    gradient_checkpointing: bool = False
    """recompute activations in the backward pass instead of keeping them: less memory, slower"""
    num_gpus: int = Field(1, ge=1)
    """number of CUDA devices of this machine to train on, each with the whole model and its own pages (data parallel);
    a step takes per_device_train_batch_size x num_gpus x gradient_accumulation_steps pages. For several machines, run
    torchrun -m components.train on each, with checkpoint_dir on a shared volume"""
    per_device_train_batch_size: int = Field(8, ge=1)
    """pages per device and step"""
    gradient_accumulation_steps: int = Field(1, ge=1)
    """batches per optimizer step"""
    fit_batch: bool = False
    """take the largest per_device_train_batch_size that fits into memory by the estimate, with as many
    gradient_accumulation_steps as give the same number of pages per optimizer step"""
    learning_rate: float = Field(2e-4, gt=0, le=1e30)
    """the schedule's highest learning rate"""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    """shape of the learning rate over the run"""
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    """share of the steps in which the learning rate rises to its maximum"""
    weight_decay: float = Field(0.0, ge=0)
    """decoupled weight decay of AdamW"""
    max_grad_norm: float = Field(1.0, gt=0)
    """gradients are clipped to this norm"""
    optim: Literal["adamw_torch", "adamw_torch_fused", "adamw_8bit"] = "adamw_torch"
    """the optimizer"""
    num_train_epochs: float = Field(1.0, gt=0)
    """passes over the training pages; max_steps overrides it"""
    max_steps: int | None = Field(None, ge=1)
    """number of optimizer steps"""
    max_length: int = Field(4096, ge=16)
    """maximum tokens per page, image tokens included; longer pages are counted, and their labels cut at the end"""
    pad_to_multiple_of: int | None = Field(None, ge=1)
    """pad the rows of a batch to a multiple of this many tokens: on a GPU, kernels are planned again for each new
    length, which takes longer than computing the padding; if not set, 64 on a GPU and 1 on a CPU"""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """number format of the computation: auto is bfloat16 on a GPU and float32 on a CPU"""
    dataloader_num_workers: int = Field(0, ge=0)
    """processes per GPU that read and preprocess pages; 0: the training process does it"""
    logging_steps: int = Field(1, ge=1)
    """steps between two points of the loss curve"""
    group_by_length: bool = False
    """batch pages of similar length, so that less padding is computed; the order still depends on the seed only"""
    checkpoint_dir: Path | None = None
    """keep checkpoints in this folder (a volume, for instance) until the adapter is written; a training with the same
    settings and data resumes from them"""
    save_steps: int | None = Field(None, ge=1)
    """steps between two checkpoints; if not set, 100, or eval_steps with early stopping. SIGTERM also writes one"""
    resume_from_checkpoint: str = "auto"
    """auto: resume from the newest undamaged checkpoint of this training in checkpoint_dir; never: delete them and
    start from the first step; or the path of a checkpoint"""
    eval_steps: int | None = Field(None, ge=1)
    """steps between two evaluations on held-out pages; without it, training does not evaluate"""
    max_eval_samples: int = Field(64, ge=1)
    """number of held-out pages, drawn with the seed, to compute the evaluation loss on"""
    eval_pages: int = Field(8, ge=0)
    """how many of these pages are also transcribed, for CER and WER"""
    early_stopping_patience: int | None = Field(None, ge=1)
    """stop after this many evaluations without a better metric_for_best_model, and use the best weights"""
    metric_for_best_model: Literal["eval_loss", "eval_cer"] = "eval_loss"
    """the metric of early stopping"""
    ignore_memory_estimate: bool = False
    """train even if the memory estimate says that the training does not fit"""
    compile_cache_dir: Path | None = None
    """keep compiled kernels for later runs here (on a volume, for instance); if not set, in the user's cache folder"""
    vision_features_dir: Path | None = None
    """keep the frozen vision encoder's output for each page in this folder (a volume, for instance): it is computed
    once, before the first step, and reused in later epochs and later trainings"""
    vision_features_gib: float = Field(50.0, gt=0)
    """the most GiB that vision_features_dir may take; the features of pages without room are computed in each step"""
    seed: Seed = 0
    """the seed of the data order, the adapter's initial weights and dropout"""

    @model_validator(mode="before")
    @classmethod
    def _preset_below_the_given_values(cls, values: Any) -> Any:
        return with_preset(values)

    @model_validator(mode="after")
    def _settings_fit_together(self) -> Self:
        if self.trust_remote_code and self.revision is None and not Path(self.base_model).is_dir():
            raise ValueError("trust_remote_code runs foreign code: pin the revision (a commit) as well")
        if self.load_in_4bit and self.load_in_8bit:
            raise ValueError("load_in_4bit and load_in_8bit exclude each other")
        if self.peft == "none" and (self.load_in_4bit or self.load_in_8bit):
            name = "load_in_4bit" if self.load_in_4bit else "load_in_8bit"
            raise ValueError(f"{name} freezes the weights, so it needs peft: lora")
        if self.peft == "none" and self.backend == "unsloth":
            raise ValueError("backend: unsloth trains adapters; peft: none needs backend standard or auto")
        if self.adapt_experts and self.lora_dropout:
            raise ValueError("adapt_experts needs lora_dropout: 0, PEFT has no dropout for fused weights")
        return self

    @model_validator(mode="after")
    def _first_values_fit_the_weights(self) -> Self:
        if self.init_lora_weights != "loftq":
            if self.loftq_iter != 1:
                raise ValueError("loftq_iter needs init_lora_weights: loftq")
        elif not self.load_in_4bit:
            raise ValueError("init_lora_weights: loftq makes up for the error of 4-bit weights: it needs load_in_4bit")
        elif self.adapt_experts:
            raise ValueError("init_lora_weights: loftq is for 4-bit weights, adapted experts are none: choose one")
        return self

    @model_validator(mode="after")
    def _kept_vision_features_do_not_change(self) -> Self:
        if self.vision_features_dir and self.peft == "none":
            raise ValueError("vision_features_dir needs a frozen vision encoder, and peft: none trains all weights")
        if self.vision_features_dir and self.finetune_vision_layers:
            raise ValueError("vision_features_dir needs a frozen vision encoder: leave finetune_vision_layers off")
        return self

    @model_validator(mode="after")
    def _checkpoints_and_evaluation_fit_together(self) -> Self:
        if self.save_steps and not self.checkpoint_dir:
            raise ValueError("save_steps needs a checkpoint_dir")
        if self.early_stopping_patience:
            if not self.eval_steps:
                raise ValueError("early_stopping_patience needs eval_steps")
            if self.save_steps not in (None, self.eval_steps):
                raise ValueError("with early_stopping_patience, save_steps is eval_steps: leave it out")
            if self.metric_for_best_model == "eval_cer" and not self.eval_pages:
                raise ValueError("metric_for_best_model: eval_cer needs eval_pages")
        return self
