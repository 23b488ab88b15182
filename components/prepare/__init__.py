"""Step prepare: documents become labelled page images in WebDataset shards, with a manifest."""
