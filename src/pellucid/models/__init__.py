"""One file per architecture, named as its `model_type`; nothing else lives here."""
