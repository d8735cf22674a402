"""The shelf of recipes: how one form of a model is made of another, one file a recipe."""
# SPDX-License-Identifier: Apache-2.0
