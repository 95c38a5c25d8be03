"""A web page and a JSON API that caption images, for one machine or a few people; needs the extra ``[web]``.

- :mod:`~captioner.web.app`: the ASGI application; ``app.html``, ``app.css`` and ``app.js`` are the page, around the
  explorer of :mod:`captioner.figures.explorer`.
- :mod:`~captioner.web.guard`: blocks cross-site requests, unknown hosts and floods.
- :mod:`~captioner.web.connections`: time and number limits of connections.
- :mod:`~captioner.web.upload`: reads an image into memory, never to disk.
- :mod:`~captioner.web.budget`: limits the bytes in flight.
- :mod:`~captioner.web.lanes`: decodes images.
- :mod:`~captioner.web.batching`: captions the images of all requests in shared batches.
"""
