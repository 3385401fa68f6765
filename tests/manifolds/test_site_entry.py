"""A site's entry: parts that do not fit each other are refused."""

import pytest
import torch

from backend.core.errors import Invalid
from backend.manifolds.site_entry import SiteEntry


def test_entries_that_do_not_fit_are_refused():
    t, knots = torch.arange(4) / 4, torch.randn(4, 2)
    with pytest.raises(Invalid, match="orthonormal"):
        SiteEntry(torch.ones(8, 2), t, knots)
    with pytest.raises(Invalid, match="frame"):
        SiteEntry(torch.eye(8)[:, :3], t, knots)
    with pytest.raises(Invalid, match="bins"):
        SiteEntry(torch.eye(8)[:, :2], t, knots, bins=[0.5, 1.0])
