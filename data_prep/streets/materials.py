"""Surface materials: small integers that the scene writes and the shader reads."""

SKY, ASPHALT, PAVING, GRASS, FACADE, MASONRY, FOLIAGE, METAL, GLASS, CLOTH, MARKING, RUBBER, LAMP = range(13)
COUNT = 13
GROUND = (ASPHALT, PAVING, GRASS, MARKING)
