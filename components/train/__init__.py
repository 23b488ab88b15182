"""Step train: pages and a base model become an adapter, or a fully fine-tuned model."""
