"""depthlm_ros: metric depth and spatial questions from one look of a vision-language model."""

from pkgutil import extend_path

# The ROS interfaces (depthlm_ros.srv) are generated into the same package name in an overlay;
# this lets the source tree and the overlay be one package.
__path__ = extend_path(__path__, __name__)
