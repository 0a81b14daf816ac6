# SPDX-License-Identifier: Apache-2.0
"""Backend tensorrt: runs plans that TensorRT built from a bundle's graphs for the GPU of this machine.

backend.py is the backend, runtime.py runs a plan, cuda_device.py is the memory of the GPU, plan_file.py is a plan on
disk. Importing these modules loads neither TensorRT nor CUDA nor torch.
"""

__all__ = ["backend", "cuda_device", "plan_file", "runtime"]
