"""A small embedding without a model, and documents to index."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from tauten.describe.passages import Document
from tauten.run.retrieval.lexical import words
from tauten.run.retrieval.ranking import IndexSettings

DIM = 32
SETTINGS = IndexSettings(model="bag", variant="", dim=DIM)


class BagOfWords:
    """Sums a fixed random vector for each stem, so that texts that share words are near."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: list[str]) -> NDArray[np.float32]:
        self.texts += texts
        return np.stack([self.one(text) for text in texts])

    def one(self, text: str) -> NDArray[np.float32]:
        total = np.zeros(DIM, np.float32)
        for word in words(text):
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
            total += np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
        return total / max(float(np.linalg.norm(total)), 1e-9)


RST = """\
.. _errors-page:

=================
Built-in Problems
=================

.. module:: problems
   :synopsis: What can go wrong.

Everything that can go wrong is listed on this page.

Lookups
-------

.. exception:: KeyError

   Raised when a mapping key is not found, see :meth:`dict.get`.

   .. versionchanged:: 3.3
      Nothing that matters here.

   .. attribute:: args

      The ``key`` that was asked for and was missing.

.. function:: fetch(name, /, default=None, \\*, \\
              strict=False)
              fetch(names)

   Return what *name* stands for.  Use it so::

      >>> fetch("a")
      1

   .. note:: It never raises :exc:`!KeyError`.

Reading `the manual <https://example.org>`_
-------------------------------------------

* first item
* second item that
  goes on

===== =====
one   two
===== =====
1     2
===== =====
"""

GLOSSARY = """\
********
Glossary
********

.. glossary::

   ``>>>``
      The prompt of the shell, at which a person types.

   decorator
      A function that returns another function::

         @wrap
         def f(): pass
"""

DOCUMENTS = [
    Document("problems.rst", RST, "rst", "https://docs.example.org/problems.html"),
    Document("glossary.rst", GLOSSARY, "rst", "https://docs.example.org/glossary.html"),
]
