"""Adapters that put DyHead into the detectors of KerasCV and KerasHub.

Import the one you need: `keras_dyhead.integrations.keras_hub`, or
`keras_dyhead.integrations.keras_cv` (an extra: `pip install '.[kerascv]'`).
"""
