# SPDX-License-Identifier: Apache-2.0
"""Questions about rendered pictures with true replies, and pairs of pictures with exact pixel matches. `visibility`
measures how well each object is visible, and `wording` holds the texts.
"""

__all__ = ["generate", "view_pairs", "visibility", "wording"]
