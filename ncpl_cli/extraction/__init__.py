"""Features of other people's networks: what `ncpl features` writes.

models.py   a network by its name: torchvision, timm, transformers, a callable of one's own
images.py   what a network for images is shown, and how it wants to see it
text.py     what a network for text is shown: next tokens, labelled texts, labelled tokens
reading.py  what chosen layers give for a batch, by hooks
writing.py  an .npz that grows by blocks of rows and is there whole or not at all
"""
