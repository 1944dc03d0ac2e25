"""Operations on packed bags."""
