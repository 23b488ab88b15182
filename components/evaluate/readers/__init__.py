"""The readers of the pages: models, the registry's champion, classic OCR engines."""
