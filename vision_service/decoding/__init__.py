"""Everything that runs C code on a picture's bytes: what is decoded (`pictures`, `credentials`, `thumbnails`, and
`vision_service.jpeg`), the tasks of the bounded workers (`tasks`), and who asks for it (`codecs`, `decoder`).

What `tasks` imports must not import torch: workers are forked from a process that holds it all.
"""
