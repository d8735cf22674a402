"""Prompts as they are seen and compared: templates in a folder, previews by part, versions, trials on a recording."""
# SPDX-License-Identifier: Apache-2.0
