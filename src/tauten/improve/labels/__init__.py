"""What people said of pairs of answers, blind; how many more labels are needed; a model as a judge."""
# SPDX-License-Identifier: Apache-2.0
