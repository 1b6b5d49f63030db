"""One gradient step of double, dueling DQN in eager PyTorch, as Stable-Baselines3 would write it: it draws from that
library's own replay buffer and differs from its `DQN.train` only in the arithmetic that ours has beside it."""

from __future__ import annotations

from copy import deepcopy

import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.utils import polyak_update
from torch import Tensor, nn
from torch.nn import functional


class DuelingNetwork(nn.Module):
    """A relu trunk with a value and an advantage head: observations [N,O] -> Q [N,A]."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], moves: int) -> None:
        nn.Module.__init__(self)
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            inputs = width
        self.trunk = nn.Sequential(*layers)
        self.value, self.advantage = nn.Linear(inputs, 1), nn.Linear(inputs, moves)

    def forward(self, observation: Tensor) -> Tensor:
        x = self.trunk(observation)
        advantage = self.advantage(x)
        return self.value(x) + advantage - advantage.mean(dim=1, keepdim=True)


class DoubleDuelingDQN:
    """What a gradient step needs; `train` takes so many of them."""

    def __init__(
        self, replay: ReplayBuffer, inputs: int, hidden: tuple[int, ...], moves: int, gamma: float
    ) -> None:
        self.replay, self.gamma = replay, gamma
        self.network = DuelingNetwork(inputs, hidden, moves)
        self.slow = deepcopy(self.network)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=1e-3)

    def train(self, steps: int, batch_size: int) -> float:
        """The mean loss over `steps` gradient steps."""
        losses = []
        for _ in range(steps):
            rows = self.replay.sample(batch_size)
            with torch.no_grad():
                best = self.network(rows.next_observations).argmax(dim=1, keepdim=True)
                after = self.slow(rows.next_observations).gather(1, best)
                target = rows.rewards + (1 - rows.dones) * self.gamma * after
            taken = self.network(rows.observations).gather(1, rows.actions.long())
            loss = functional.smooth_l1_loss(taken, target)
            losses.append(loss.item())
            self.optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 10.0)
            self.optimiser.step()
            polyak_update(self.network.parameters(), self.slow.parameters(), 0.01)
        return sum(losses) / len(losses)
