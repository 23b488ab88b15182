"""The first DeepSeek-OCR: configuration, model and processor in transformers' form.

transformers has no class for it up to 5.17. Architecture: arXiv 2510.18234 and the published ``config.json``; the parts
that DeepSeek-OCR-2 has too are transformers' own (``deepseek_ocr2``). This folder imports only itself and installed
packages: an export copies it into its package as it is.
"""
