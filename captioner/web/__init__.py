"""A page and a JSON API that caption images, for one machine or a few people; the extra ``[web]`` has what they need.

:func:`captioner.web.app.create_app` makes the ASGI application. :mod:`~captioner.web.guard` refuses foreign sites,
names and floods, :mod:`~captioner.web.connections` bounds what a connection costs, :mod:`~captioner.web.upload` reads a
image into memory and nowhere else, :mod:`~captioner.web.budget` counts the bytes in flight, :mod:`~captioner.web.lanes`
decodes images and :mod:`~captioner.web.batching` captions those of all requests together. ``app.html``, ``app.css`` and
``app.js`` are the page, around the explorer of :mod:`captioner.figures.explorer`.
"""
