"""The bundled base model: its weights, its model card, and the texts it was trained on."""
