"""The train step: turns pages and a base model into an adapter or a fully fine-tuned model."""
