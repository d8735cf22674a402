"""What the OpenAI-compatible API is made of; its routes are in apis/openai.py."""
# SPDX-License-Identifier: Apache-2.0
