"""From a document to pages: composition, looks, augmentation, pictures taken as they are."""
