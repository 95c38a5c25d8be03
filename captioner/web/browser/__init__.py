"""The page without a server: a folder for any web host, with which the visitor's browser captions images.

- :mod:`~captioner.web.browser.site`: writes the folder.
- :mod:`~captioner.web.browser.runtime`: onnxruntime-web, which runs the graphs there.

The page is that of :mod:`captioner.web` with ``page.js`` in place of ``requests.js``. Its worker is ``worker.js`` with
``photo.js``, and with what tests hold equal to Python: ``transform.js`` to :mod:`captioner.data.transform`,
``beam.js`` to :mod:`captioner.onnx.beam`, ``consensus.js`` to :mod:`captioner.search.consensus`, ``figure.js`` to
:mod:`captioner.figures.explorer` and :func:`captioner.text.vocabulary.detokenize`.
"""
