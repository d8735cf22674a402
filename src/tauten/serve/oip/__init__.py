"""What the Open Inference Protocol is made of, REST and gRPC; its routes are in apis/oip.py."""
# SPDX-License-Identifier: Apache-2.0
