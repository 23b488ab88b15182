"""From a document to pages: text engines, page composition, looks, augmentation."""
