"""Other people's training loops into the store: callbacks of Lightning and of transformers' Trainer, one file each."""
