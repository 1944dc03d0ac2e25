"""Operations on masks."""
