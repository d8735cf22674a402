"""Where weights come from: a catalog of pinned models and a store that fetches, checks and converts them."""
# SPDX-License-Identifier: Apache-2.0

from tauten.models.catalog import Catalog as Catalog
from tauten.models.catalog import Model as Model
from tauten.models.catalog import Variant as Variant
from tauten.models.catalog import default_catalog as default_catalog
from tauten.models.fetch import Progress as Progress
from tauten.models.store import Store as Store
