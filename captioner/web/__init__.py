"""A web page and a JSON API that caption images, for one machine or a few people; needs the extra ``[web]``.

- :mod:`~captioner.web.app`: the ASGI application.
- :mod:`~captioner.web.answers`: the requests and answers of the API.
- :mod:`~captioner.web.page`: the page, of ``app.html``, ``app.css`` and scripts, around the explorer of
  :mod:`captioner.figures.explorer`: ``requests.js`` sends requests to the server, ``items.js`` holds the images and
  their captions, ``drawing.js`` draws one, ``grid.js`` many, ``saving.js`` saves and ``adding.js`` adds them.
- :mod:`~captioner.web.browser`: the same page without a server, which does not need the extra.
- :mod:`~captioner.web.sidecars`: files with captions for photo software, in a ZIP.
- :mod:`~captioner.web.guard`: blocks cross-site requests, unknown hosts and floods.
- :mod:`~captioner.web.connections`: time and number limits of connections.
- :mod:`~captioner.web.upload`: reads an image into memory, never to disk.
- :mod:`~captioner.web.budget`: limits the bytes in flight.
- :mod:`~captioner.web.lanes`: decodes images.
- :mod:`~captioner.web.batching`: captions the images of all requests in shared batches.
"""
